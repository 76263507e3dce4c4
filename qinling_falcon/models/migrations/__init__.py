"""The schema's history: forward only, applied in order, each once (`models/migrate.py`)."""

"""The parts of webhooks that need no pool: signatures, answers and CORS of deliveries, and requests of callbacks."""

"""The HTTP server: a Gunicorn worker class with cheap idle connections and deadlines for slow clients."""

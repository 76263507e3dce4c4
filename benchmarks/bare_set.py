"""The reference for accepting: a bare Falcon app that sets one key in Redis for each request, and answers with JSON."""

import json
import os
import uuid

import falcon
import redis


class Accept:
    def __init__(self):
        self.redis = redis.Redis.from_url(os.environ["REDIS_URL"])

    def on_post(self, request, response):
        call = json.loads(request.bounded_stream.read())
        execution_id = str(uuid.uuid4())
        self.redis.set(execution_id, json.dumps(call))
        response.status = "201 Created"
        response.media = {"id": execution_id, "status": "running"}


application = falcon.App()
application.add_route("/v1/executions", Accept())

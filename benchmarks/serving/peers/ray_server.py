"""A Ray Serve deployment with one replica on a local cluster.  ray_server.py PORT."""

import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import ray
from ray import serve


@serve.deployment(num_replicas=1)
class Classifier:
    def __init__(self):
        self.model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())

    async def __call__(self, request):
        rows = np.array((await request.json())["rows"])
        return {"predictions": self.model.predict(rows).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind())
    signal.pause()

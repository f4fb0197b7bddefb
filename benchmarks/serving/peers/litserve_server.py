"""A LitServe server with one worker and one API server, as in its quickstart.  litserve_server.py PORT."""

import os
import pickle
import sys
from pathlib import Path

import litserve
import numpy as np


class Classifier(litserve.LitAPI):
    def setup(self, device):
        self.model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())

    def decode_request(self, request):
        return np.array(request["rows"])

    def predict(self, rows):
        return self.model.predict(rows)

    def encode_response(self, answers):
        return {"predictions": answers.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)

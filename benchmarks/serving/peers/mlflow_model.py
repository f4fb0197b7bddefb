"""Saves the model as `mlflow models serve` wants it, with a signature, as its documentation shows.  mlflow_model.py FOLDER."""

import os
import pickle
import sys
from pathlib import Path

import mlflow.sklearn
import numpy as np
from mlflow.models import infer_signature

model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())
# A tensor, as the model was trained on one: with named columns mlflow makes a frame of each request, seven times slower.
rows = np.zeros((1, 20))
signature = infer_signature(rows, model.predict(rows))
mlflow.sklearn.save_model(model, sys.argv[1], signature=signature, serialization_format="cloudpickle")

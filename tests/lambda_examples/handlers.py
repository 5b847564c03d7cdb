"""The handlers as Lambda imports them: from a directory on the path."""

import importlib
import sys
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / "examples" / "lambda"
NAMES = ("etcd_lifecycle", "etcd_backup", "cluster_health")

sys.path.insert(0, str(DIRECTORY))
try:
    bundle = importlib.import_module("bundle")
    operations = importlib.import_module("operations")
    etcd_lifecycle, etcd_backup, cluster_health = (importlib.import_module(f"{name}.handler") for name in NAMES)
finally:
    sys.path.remove(str(DIRECTORY))

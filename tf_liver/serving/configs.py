"""The files that start TF Serving on an export: written beside the model where they are missing, never replaced."""

from pathlib import Path

from tf_liver.files import write_atomic
from tf_liver.serving.wire import MODEL_NAME

MODELS = f"""\
# tensorflow_model_server --model_config_file: the newest version is served, an older one until that is loaded.
model_config_list {{
  config {{
    name: "{MODEL_NAME}"
    base_path: "/models/{MODEL_NAME}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

BATCHING = """\
# tensorflow_model_server --enable_batching --batching_parameters_file: requests that arrive together run together.
# For many clients with single slices on a GPU. Off by default, because TF Serving joins requests of one height and
# width only and answers others that meet in a batch with an error; serve_encoded may mix sizes.
max_batch_size { value: 16 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 256 }
enable_large_batch_splitting { value: true }
"""

MONITORING = """\
# tensorflow_model_server --monitoring_config_file: figures for Prometheus, on the REST port.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

COMPOSE = f"""\
# docker compose up: gRPC on 8500, REST on 8501, Prometheus on 8501/monitoring/prometheus/metrics.
# On a machine with NVIDIA's container toolkit: IMAGE=tensorflow/serving:2.21.0-gpu and the lines below `deploy`.
services:
  {MODEL_NAME}:
    image: ${{IMAGE:-tensorflow/serving:2.21.0}}
    ports: ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    volumes: ["./:/models:ro"]
    command:
      - --model_config_file=/models/models.config
      - --monitoring_config_file=/models/monitoring.config
      # - --enable_batching
      # - --batching_parameters_file=/models/batching_parameters.txt
    restart: unless-stopped
    # deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: 1, capabilities: [gpu]}}]}}}}}}
"""

FILES = {
    "models.config": MODELS,
    "batching_parameters.txt": BATCHING,
    "monitoring.config": MONITORING,
    "compose.yaml": COMPOSE,
}


def write_configs(output: Path) -> None:
    """Write the files into the folder of an export; what is there already may be somebody's work and stays."""
    for name, text in FILES.items():
        if not (output / name).exists():
            write_atomic(output / name, text)

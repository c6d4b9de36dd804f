# syntax=docker/dockerfile:1
# Two images: `scheduler` plans and sends and has no torch; `worker` decodes and recognises and has the models' weights.
#
#   docker build --target scheduler --tag moodreel-scheduler .
#   docker build --target worker --tag moodreel-worker .
#
# As it stands the worker's torch is the one with CUDA; the host brings the driver. For a machine without a GPU:
#   docker build --target worker --build-arg CONSTRAINTS=constraints-cpu.txt --build-arg PIP_EXTRA_INDEX_URL=... .
# where the index is one that has torch's CPU builds; without it that image works too, but carries CUDA for nothing.
# What is installed is pinned with hashes (deploy/*.lock, `make lock`); but not with CONSTRAINTS.
#
# Run both with `--init`: what a killed process leaves behind is then reaped.

# Dependencies have layers of their own, so that a change of code does not build gigabytes anew.
FROM python:3.11-slim-bookworm AS scheduler-environment
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
# /cache keeps fetched checkpoints and the weights' hashes; whoever the container runs as may write to it.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp moodreel && install --directory --mode 1777 /cache
ENV USER=moodreel HOME=/tmp MOODREEL_CACHE=/cache/moodreel HF_HOME=/cache/huggingface
COPY deploy/scheduler.lock deploy/
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes --requirement deploy/scheduler.lock

FROM scheduler-environment AS worker-environment
ARG CONSTRAINTS=
ARG PIP_EXTRA_INDEX_URL=
COPY deploy/worker.lock deploy/requirements.py deploy/
COPY constraints-cpu.txt ./
# Another build of torch has other hashes than those that are locked.
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -z "$CONSTRAINTS" ]; then pip install --require-hashes --requirement deploy/worker.lock; \
    else python deploy/requirements.py worker > /requirements.txt && \
        pip install --requirement /requirements.txt --constraint "$CONSTRAINTS"; fi

FROM scheduler-environment AS scheduler
COPY README.md ./
COPY db db/
COPY models/*.py models/
COPY worker worker/
COPY scheduler scheduler/
RUN pip install --no-deps --no-cache-dir --editable . && python -m compileall -q db models worker scheduler
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["moodreel", "--help"]

FROM worker-environment AS worker
COPY README.md ./
COPY db db/
COPY models models/
COPY worker worker/
COPY scheduler scheduler/
RUN pip install --no-deps --no-cache-dir --editable . && python -m compileall -q db models worker scheduler
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["moodreel", "--help"]

# The command line in a container, with the versions of constraints.txt. For the CPU:
#   docker build -t fastvlm-bench .
#   docker run --rm -v "$PWD/results:/bench/results" fastvlm-bench run --limit 20
# For NVIDIA GPUs name the CUDA of the torch build, and give the container the devices:
#   docker build -t fastvlm-bench:cuda --build-arg TORCH=cu130 .
#   docker run --rm --gpus all -v "$PWD/results:/bench/results" fastvlm-bench:cuda run --model MODEL
# Models from the hub land in /bench/cache; mount it to keep them. A mounted folder must be writable for the user in the
# container, 1000 unless `docker run --user` says otherwise.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# cpu, or cu and the digits of a CUDA version: a folder of torch's own index, whose builds go before the usual ones.
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/fastvlm-bench
COPY constraints.txt ./
RUN pip install -c constraints.txt --extra-index-url https://download.pytorch.org/whl/${TORCH} torch
COPY pyproject.toml README.md LICENSE ./
COPY suites ./suites
COPY fastvlm_bench ./fastvlm_bench
RUN pip install -c constraints.txt .

RUN useradd --create-home --uid 1000 bench && mkdir -p /bench/results /bench/cache && chown -R bench /bench
ENV HF_HOME=/bench/cache
WORKDIR /bench
USER bench
VOLUME ["/bench/results", "/bench/cache"]
ENTRYPOINT ["fastvlm-bench"]
CMD ["--help"]

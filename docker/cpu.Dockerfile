# `mogu serve` on a CPU; docs/serving.md says how to build and run it. The context is the repository.
FROM python:3.12-slim

# The default index may bring a build of torch for CUDA, which is several GB larger: give that of PyTorch's CPU wheels.
ARG TORCH=2.13.0
ARG TORCH_INDEX=
# Before the project: it is the largest layer and changes least.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH"

WORKDIR /opt/mogu
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[serve]" && useradd --uid 10001 --create-home mogu

USER 10001
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# Nobody reaches it from outside without a key: with none it refuses to start.
ENTRYPOINT ["mogu", "serve"]
CMD ["/adapter", "--host", "0.0.0.0"]

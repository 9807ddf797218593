# `mogu serve` on a GPU; docs/serving.md says how to build and run it. The context is the repository.
# torch's wheels bring CUDA with them; the driver comes from the host, by NVIDIA's container toolkit.
FROM python:3.12-slim

ARG TORCH=2.13.0
ARG TORCH_INDEX=
# Before the project: it is the largest layer and changes least.
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH"

WORKDIR /opt/mogu
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[serve]" && useradd --uid 10001 --create-home mogu

USER 10001
ENV PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# Nobody reaches it from outside without a key: with none it refuses to start.
ENTRYPOINT ["mogu", "serve"]
CMD ["/adapter", "--host", "0.0.0.0", "--device", "cuda", "--rows", "64", "--waiting", "256"]

# The translation server, on a CPU:
#     docker build -t flallm .
#     docker run --rm -p 8000:8000 -v "$PWD/quickstart_output/model:/model:ro" flallm
FROM python:3.12-slim

RUN useradd --create-home flallm
WORKDIR /home/flallm/app

# torch and torchvision together, as builds of each other. For GPUs, build with --build-arg TORCH_BACKEND=cu128, or a newer one.
ARG TORCH_BACKEND=cpu
COPY pyproject.toml README.md LICENSE ./
COPY modeling_flallm modeling_flallm
COPY processing processing
COPY train_scripts train_scripts
COPY spaces_demo spaces_demo
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "$TORCH_BACKEND" ".[serving]"

USER flallm
EXPOSE 8000
# Loading the model and the processes that read files takes some seconds.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGINT
ENTRYPOINT ["flallm", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "/model"]

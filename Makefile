# Works with GNU make 3.81 and later. `make` alone prints what there is.
PYTHON ?= python3
VENV ?= .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALL = $(VENV_PYTHON) -m pip install -e ".[dev]"
INSTALLED := $(VENV)/installed.stamp
MODEL_ID ?= quickstart_output/model
# What `make test-newest-versions` upgrades beyond what pyproject.toml allows, and with PRE=--pre to pre-releases.
NEWEST ?= torch torchvision transformers datasets peft accelerate evaluate huggingface-hub gradio

.DEFAULT_GOAL := help
.PHONY: help install quickstart quickstart-llava-slt quickstart-uni-sign demo test test-unit test-minimum-versions test-newest-versions lint format site benchmark-factorised benchmark-decode benchmark-long-video benchmark-feature-cache benchmark-visual-initialing benchmark-sltbaselines \
	benchmark-inference benchmark-memory benchmark-llava-slt benchmark-quickstart benchmark-frozen-features benchmark-pretrained-encoders benchmark-isolated-recognition benchmark-poses-beside-frames benchmark-descriptions benchmark-diffusion benchmark-signers benchmark-handedness benchmark-frame-rates benchmark-distributed benchmark-cluster benchmark-scale-plan benchmark-kills benchmark-streamed-memory benchmark-latency benchmark-serving benchmark-live-captions clean

help: ## Show this list
	@echo "Usage: make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-22s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Make .venv and install FLaLLM with its development tools (again only when pyproject.toml changes)

quickstart: install ## Generate the corpus, train both stages, evaluate, translate (QUICKSTART_ARGS="..." adds flags)
	$(VENV_PYTHON) -m train_scripts quickstart --output_dir quickstart_output $(QUICKSTART_ARGS)

quickstart-llava-slt: install ## The same with the second system, LLaVA-SLT: all three stages (QUICKSTART_ARGS="..." adds flags)
	$(VENV_PYTHON) -m train_scripts quickstart llava-slt --output_dir quickstart_llava_slt_output $(QUICKSTART_ARGS)

quickstart-uni-sign: install ## The same with the third system, Uni-Sign, on poses: the fastest (QUICKSTART_ARGS="..." adds flags)
	$(VENV_PYTHON) -m train_scripts quickstart uni-sign --output_dir quickstart_uni_sign_output $(QUICKSTART_ARGS)

demo: install $(filter quickstart_output/model,$(MODEL_ID)) ## Open the Space on the quickstart's model (MODEL_ID=me/flallm-phoenix: on another)
	MODEL_ID=$(MODEL_ID) EXAMPLES_FOLDER=quickstart_output/corpus/test $(VENV_PYTHON) spaces_demo/app.py

quickstart_output/model:
	@echo "There is no model yet: running the quickstart first, which takes some minutes."
	$(MAKE) quickstart

test: install ## Run the whole test suite (PYTEST_ARGS="..." adds flags)
	$(VENV_PYTHON) -m pytest --numprocesses auto --dist loadfile $(PYTEST_ARGS)

test-unit: install ## Run the tests that are not marked slow
	$(VENV_PYTHON) -m pytest --numprocesses auto --dist loadfile -m "not slow" $(PYTEST_ARGS)

# uv, because pip cannot be asked for the lowest versions that pyproject.toml allows.
test-minimum-versions: ## Run the whole test suite on the oldest versions of everything FLaLLM needs
	$(MAKE) test VENV=.venv-minimum-versions INSTALL='$$(VENV_PYTHON) -m pip install "uv>=0.5" && \
		$$(VENV)/bin/uv pip install --python $$(VENV_PYTHON) --resolution lowest-direct -e ".[dev]"'

# Anew each time. pip warns that the releases are beyond what FLaLLM asks for: that is the point.
test-newest-versions: ## The same on the newest releases, also those that pyproject.toml does not allow yet (NEWEST=peft, PRE=--pre)
	rm -rf .venv-newest-versions
	$(MAKE) test VENV=.venv-newest-versions INSTALL='$$(VENV_PYTHON) -m pip install -e ".[dev]" && \
		$$(VENV_PYTHON) -m pip install --upgrade $(PRE) $(NEWEST) && $$(VENV_PYTHON) tests/untested_versions.py'

lint: install ## Check style and formatting
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

format: install ## Mend what ruff can mend, and format
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

site: install ## Build the pages in docs/ as a site in site/; a broken link stops it
	$(VENV_PYTHON) -m pip install -e ".[docs]"
	$(VENV_PYTHON) -m mkdocs build --strict

benchmark-factorised: install ## Train factorised against joint (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/factorised_against_joint.py $(BENCHMARK_ARGS)

benchmark-decode: install ## Decode and preprocess, against pictures frame by frame (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/decode_and_preprocess.py $(BENCHMARK_ARGS)

benchmark-long-video: install ## Long videos: joints found and BLEU-4, on the quickstart's output (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/long_video.py $(BENCHMARK_ARGS)

benchmark-feature-cache: install ## Stage 2 from cached features, with and without (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/feature_cache.py $(BENCHMARK_ARGS)

benchmark-visual-initialing: install ## Stage 1, each switch on and off, beside a plain baseline (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/visual_initialing.py $(BENCHMARK_ARGS)

benchmark-sltbaselines: install ## Stage 1 in float32 beside a step as sltbaselines does it (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/stage1_beside_sltbaselines.py $(BENCHMARK_ARGS)

benchmark-inference: install ## Translation, each switch on and off, beside a plain baseline (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/inference.py $(BENCHMARK_ARGS)

benchmark-memory: install ## Peak memory of training by flag (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/peak_memory.py $(BENCHMARK_ARGS)

benchmark-llava-slt: install ## LLaVA-SLT without stage 1, without stage 2 and whole (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/llava_slt_ablation.py $(BENCHMARK_ARGS)

benchmark-quickstart: install ## The quickstart with its switches on and off (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/quickstart.py $(BENCHMARK_ARGS)

benchmark-frozen-features: install ## SpaMo's recipe on a frozen ViT that learned without labels, beside FLa-LLM (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/frozen_features.py $(BENCHMARK_ARGS)

benchmark-isolated-recognition: install ## Isolated signs from a file of landmarks (BENCHMARK_ARGS="--landmarks isl_10_words.npz")
	$(VENV_PYTHON) benchmarks/isolated_recognition.py $(BENCHMARK_ARGS)

benchmark-pretrained-encoders: install ## Steps with image and video models of transformers (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/pretrained_encoders.py $(BENCHMARK_ARGS)

benchmark-poses-beside-frames: install ## Clips per second of poses beside frames (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/poses_beside_frames.py $(BENCHMARK_ARGS)

benchmark-descriptions: install ## MMSLT with descriptions, with shuffled ones and without (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/descriptions.py $(BENCHMARK_ARGS)

benchmark-diffusion: install ## DiffSLT beside the system that guides it (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/diffusion.py $(BENCHMARK_ARGS)

benchmark-signers: install ## Who is understood, on two generators' corpora (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/every_signer.py $(BENCHMARK_ARGS)

benchmark-handedness: install ## Whether the hand of a signer is found, and how fast (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/handedness.py $(BENCHMARK_ARGS)

benchmark-frame-rates: install ## Clips of other frame rates than in training, on two quickstarts' output (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/frame_rates.py $(BENCHMARK_ARGS)

benchmark-distributed: install ## Losses of several processes and machines beside one process (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/distributed_losses.py $(BENCHMARK_ARGS)

benchmark-cluster: install ## Translation on a Ray cluster that loses a machine (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/cluster.py $(BENCHMARK_ARGS)

benchmark-live-captions: install ## The Space's captions of a camera in a real browser (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/live_captions.py $(BENCHMARK_ARGS)

benchmark-scale-plan: install ## What corpora up to 25,000 hours cost, by arithmetic and simulation (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/scale_plan.py $(BENCHMARK_ARGS)

benchmark-kills: install ## Commands that are killed and run again, beside ones that are not (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/kills.py $(BENCHMARK_ARGS)

benchmark-streamed-memory: install ## Memory of a training on a stream, by rows (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/streamed_memory.py $(BENCHMARK_ARGS)

benchmark-latency: install ## From a clip to its sentence, as a file and live, cold and warm (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/latency.py $(BENCHMARK_ARGS)

benchmark-serving: install ## Many users who stream at once, on the quickstart's output (BENCHMARK_ARGS="..." adds flags)
	$(VENV_PYTHON) benchmarks/serving.py $(BENCHMARK_ARGS)

clean: ## Remove the virtual environment, the quickstart's output and all caches
	rm -rf $(VENV) .venv-minimum-versions .venv-newest-versions quickstart_output quickstart_llava_slt_output quickstart_uni_sign_output build dist site .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV_PYTHON):
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "FLaLLM needs Python 3.11 to 3.13, but there is no command '$(PYTHON)'." >&2; \
		echo "Install Python, or name one that you have: make install PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "FLaLLM needs Python 3.11 to 3.13, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)." >&2; \
		echo "Install one of these and name it: make install PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' could not make a virtual environment in $(VENV)." >&2; \
		echo "On Debian and Ubuntu its parts are a package of their own: apt install python3-venv" >&2; exit 1; }

# torch and torchvision must be builds of each other: pip resolves them together, into an environment with nothing in it.
$(INSTALLED): pyproject.toml $(VENV_PYTHON)
	$(INSTALL)
	@touch $@

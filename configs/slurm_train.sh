#!/usr/bin/env bash
# Trains a stage on the GPUs of one or more machines under Slurm. A job that reaches its time limit, or that is ended for
# another one, saves a checkpoint, goes back into the queue, and continues there:
#
#     sbatch --nodes 2 --gpus-per-node 4 configs/slurm_train.sh visual-initialing --config paper_visual_initialing \
#         --tokenizer_name_or_path mbart --dataset corpus --output_dir outputs/stage1
#
#SBATCH --job-name=flallm
#SBATCH --ntasks-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM, to this script alone, five minutes before the end.
#SBATCH --signal=B:TERM@300
set -uo pipefail

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240  # seconds that torchrun leaves for the checkpoint
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

is_ended=false
trap 'is_ended=true; kill -TERM "$training"' TERM

srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "$SLURM_GPUS_ON_NODE" \
  --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first_node:29500" \
  -m train_scripts train "$@" --resume_from_checkpoint auto &
training=$!
wait "$training"  # ends early when the signal comes
wait "$training"
status=$?

if [ "$is_ended" = true ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

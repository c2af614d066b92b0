#!/bin/sh
#SBATCH --job-name=sage
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#
# Runs a program on the first of the job's machines, with a Ray cluster of all of them:
#
#     sbatch slurm.sh python cluster_job.py in.jsonl out.jsonl --model <hub id> --address auto
#
# The folder and the Python environment are on a disk that all machines share. A job that Slurm puts
# back into the queue goes on from its checkpoint.
set -eu

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # another job may be on the same machine
exec srun ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- "$@"

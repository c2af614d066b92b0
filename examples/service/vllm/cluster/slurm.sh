#!/bin/sh
#SBATCH --job-name=sage
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue
#
# Runs a program on the first of the job's machines, with a Ray cluster of all of them:
#
#     sbatch slurm.sh python cluster_job.py in.jsonl out.jsonl --model <hub id> --address auto
#
# The folder and the Python environment are on a disk that all machines share. The machines are the
# job's alone: in the end all that you run of Ray there is stopped, also by another job. A job that
# Slurm puts back into the queue goes on from its checkpoint.
set -eu

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" -- "$@"

#!/usr/bin/env bash
# Ray on a Slurm allocation, then one run on it:  sbatch cluster/launch/slurm.sh CONFIG [--set KEY=VALUE ...]
# The run directory and the checkout must be on storage that all nodes see. Requeued jobs resume at the shard.
#SBATCH --job-name=capfilt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?run this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
port=6379
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')

srun --nodes=1 --ntasks=1 -w "${nodes[0]}" \
  ray start --head --node-ip-address="$address" --port=$port --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 15
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" \
    ray start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
done
sleep 15
RAY_ADDRESS="$address:$port" python -m pipeline run "$@"

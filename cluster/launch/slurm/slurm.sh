#!/usr/bin/env bash
# Ray on the nodes of a Slurm job, and one run on it; docs/clusters.md describes it.
#   sbatch cluster/launch/slurm/slurm.sh CONFIG [--set KEY=VALUE ...]
# run.dir and this environment must be on storage that all nodes see. The job puts itself back into the queue
# before its time limit and when Ray's head is lost; Slurm does so after a preemption or the failure of a node.
# It resumes at the shard.
#SBATCH --job-name=capfilt
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

MAX_RESTARTS=${CAPFILT_MAX_RESTARTS:-100}       # of the job, by Slurm or by itself
NODE_SECONDS=${CAPFILT_NODE_SECONDS:-600}       # in which all nodes must have joined Ray
STOP_SECONDS=${CAPFILT_STOP_SECONDS:-120}       # in which a run that was asked to stop must have ended
POLL_SECONDS=${CAPFILT_POLL_SECONDS:-5}

cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}

# Sockets, logs and spilled objects: of this user and this job alone, and short, since paths of sockets are limited.
folder="/tmp/ray-$(id -u)-$SLURM_JOB_ID"
# Other users of the network must not run code as this one.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_TMPDIR="$folder"

# One task with all CPUs and GPUs of a node; srun takes the CPUs of a task from no variable of the job.
task=(srun --nodes=1 --ntasks=1 "--cpus-per-task=$SLURM_CPUS_PER_TASK")

on_all_nodes() {
  srun --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --overlap "$@"
}

free_port() {  # a TCP port that no program of this node uses
  python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

count_nodes() {  # nodes that have joined Ray; 0 while the head does not answer
  python -c 'import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))' "$address" 2>/dev/null || echo 0
}

requeue() {  # REASON
  # A canceled job must not come back; a preempted one Slurm itself queues again.
  if ! scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
    echo "capfilt: $1; Slurm has ended the job"
    exit 1
  fi
  if ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
    echo "capfilt: $1; not queued again after $SLURM_RESTART_COUNT restarts; sbatch it again to resume"
    exit 1
  fi
  echo "capfilt: $1; the job is queued again and resumes"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}

steps=()
driver=""
stopping=""

stop_driver() {  # REASON; work in progress is finished first (run.grace_seconds)
  stopping=$1
  if [[ -n $driver ]]; then
    kill -TERM "$driver" 2>/dev/null || true
    (sleep "$STOP_SECONDS" && kill -KILL "$driver") >/dev/null 2>&1 &
    steps+=($!)
  fi
}

# shellcheck disable=SC2329  # called by the trap of EXIT
clean_up() {
  trap '' USR1 TERM
  if ((${#steps[@]})); then kill "${steps[@]}" 2>/dev/null || true; fi
  wait
  on_all_nodes rm -rf "$folder" || true
}

trap 'stop_driver "the time limit is near"' USR1
trap 'stop_driver "the job was asked to end"' TERM
trap clean_up EXIT

on_all_nodes mkdir -m 700 -p "$folder"
address=$("${task[@]}" --nodelist="$head" hostname --ip-address | awk '{print $1}'):$(free_port)
"${task[@]}" --nodelist="$head" ray start --head --node-ip-address="${address%:*}" --port="${address##*:}" \
  --ray-client-server-port="$(free_port)" --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$folder" --block &
head_step=$!
steps+=("$head_step")
for node in "${nodes[@]:1}"; do
  "${task[@]}" --nodelist="$node" ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
  steps+=($!)
done

deadline=$((SECONDS + NODE_SECONDS))
until joined=$(count_nodes) && ((joined >= ${#nodes[@]})); do
  if [[ -n $stopping ]]; then requeue "$stopping"; fi
  if ! kill -0 "$head_step" 2>/dev/null; then requeue "Ray's head did not start on $head"; fi
  if ((SECONDS >= deadline)); then
    requeue "only $joined of ${#nodes[@]} nodes joined Ray in $NODE_SECONDS s"
  fi
  sleep "$POLL_SECONDS"
done
echo "capfilt: ${#nodes[@]} nodes at $address"

RAY_ADDRESS="$address" capfilt run "$@" &
driver=$!
while kill -0 "$driver" 2>/dev/null; do
  # A driver whose head is gone may wait for it for ever.
  if [[ -z $stopping ]] && ! kill -0 "$head_step" 2>/dev/null; then stop_driver "Ray's head on $head was lost"; fi
  sleep "$POLL_SECONDS" &
  wait $! || true   # a signal ends this wait, and its trap runs at once
done
code=0
wait "$driver" || code=$?
driver=""
if ((code == 0)); then exit 0; fi
if [[ -z $stopping ]] && ! kill -0 "$head_step" 2>/dev/null; then stopping="Ray's head on $head was lost"; fi
if [[ -n $stopping ]]; then requeue "$stopping"; fi
exit "$code"

#!/usr/bin/env bash
# The pipeline on a real SLURM on this machine alone: two slurmds, which are two nodes to everybody else.
#
#   1. What a training on GPUs asks for is accepted as it is meant: GPU type and number, nodes, CPUs, memory, time.
#   2. A grid of two cells. One is killed by scancel in mid-training and submitted again by Snakemake; the other is
#      preempted, and requeued by SLURM itself. Both resume, and the grid is finished.
#   3. The same cell on two processes of one node, and of two nodes: the same weights.
#
# Run as root in a checkout with .venv set up. Trains in envs/famba-cpu.sif where that is, else in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=/tmp/famba-ci-slurm # the daemons' state; a run that was killed leaves it, with the pids of its daemons
CONF=/etc/slurm/slurm.conf # the plugin's srun looks nowhere else
PATH=$PWD/.venv/bin:/opt/apptainer/usr/bin:$PATH
export APPTAINER_DROP_CAPS=CAP_SYS_RESOURCE # which root in a virtual machine may not have
DAEMONS=()
STARTED=$SECONDS

say() { echo "-- $* (at $((SECONDS - STARTED)) s)"; }

fail() {
  echo "slurm.sh: $*" >&2
  tail -n 20 "$WORK"/log/* "$WORK"/*.out .snakemake/slurm_logs/*/*/*.log >&2 2>/dev/null || true
  exit 1
}

wait_for() { # wait_for SECONDS WHAT COMMAND...: until the command succeeds
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < end)) || fail "waited in vain for $what"
    sleep 0.2
  done
}

needs() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return
  timeout -s KILL 60 apt-get update -qq
  DEBIAN_FRONTEND=noninteractive timeout -s KILL 180 \
    apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null 2>&1 || fail "slurm-wlm: not installed"
}

stop_left_over() { # daemons of a run that was killed, by the pids that they wrote
  local file pid
  for file in "$WORK"/*.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    case $(readlink "/proc/$pid/exe" 2>/dev/null) in */slurmctld* | */slurmd* | */munged*) kill -9 "$pid" ;; esac
  done
  if [ -e "$CONF" ] && [ "$(readlink "$CONF")" != "$WORK/slurm.conf" ]; then
    fail "$CONF is there: this machine has a SLURM of its own, which this script would disturb"
  fi
  rm -rf "$WORK"
}

stop() {
  trap '' INT TERM
  local pid
  jobs -p >"$WORK/jobs" # in this shell, so that it knows them
  timeout -s KILL 10 scancel --user=root --signal=KILL --full 2>/dev/null || true
  sleep 1
  for pid in $(cat "$WORK/jobs"); do pkill -KILL -P "$pid" || true; done # a Snakemake is the child of its `timeout`
  for pid in "${DAEMONS[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${DAEMONS[@]}"; do # slurmctld takes its time
    timeout 3 tail -f /dev/null --pid="$pid" || kill -9 "$pid" || true
    wait "$pid" 2>/dev/null || true
  done
  rm -f "$CONF"
  rm -rf "$WORK"
}

start() {
  local host node
  host=$(hostname -s)
  mkdir -p "$WORK"/{state,log} "$(dirname "$CONF")"
  chmod 755 "$WORK"
  head -c 128 /dev/urandom >"$WORK/munge.key"
  chmod 400 "$WORK/munge.key"
  # the GPUs are so many /dev/null, and only counted: nothing here uses one
  local gpu
  for gpu in 0 1 2 3; do mknod "$WORK/gpu$gpu" c 1 3; done
  echo "NodeName=n[1-2] Name=gpu Type=a100 File=$WORK/gpu[0-3]" >"$WORK/gres.conf"
  # requeued jobs wait as long as credentials hold: 120 s, were it not for cred_expire
  cat >"$WORK/slurm.conf" <<END
ClusterName=famba
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$WORK/munge.socket,cred_expire=10
CryptoType=crypto/munge
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/%n
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/%n.pid
SlurmctldPort=26817
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=26818 CPUs=64 RealMemory=200000 Gres=gpu:a100:4
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=26819 CPUs=64 RealMemory=200000 Gres=gpu:a100:4
PartitionName=main Nodes=n1,n2 Default=YES State=UP
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 State=UP
PartitionName=gpu Nodes=n1,n2 State=DOWN
END
  ln -sfn "$WORK/slurm.conf" "$CONF"
  munged --foreground --key-file="$WORK/munge.key" --socket="$WORK/munge.socket" --pid-file="$WORK/munged.pid" \
    --seed-file="$WORK/munge.seed" >"$WORK/log/munged" 2>&1 &
  DAEMONS+=($!)
  wait_for 10 munged test -S "$WORK/munge.socket"
  slurmctld -D -f "$WORK/slurm.conf" >"$WORK/log/slurmctld" 2>&1 &
  DAEMONS+=($!)
  for node in n1 n2; do
    slurmd -D -f "$WORK/slurm.conf" -N "$node" >"$WORK/log/$node" 2>&1 &
    DAEMONS+=($!)
  done
  wait_for 30 "two idle nodes" two_idle
}

two_idle() { [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | wc -l)" = 2 ]; }

# pipeline LIMIT PARTITION EXPERIMENT [TARGET...]: in the background, as `snakemake --workflow-profile slurm` with what
# a user edits in the profile, and short waits. A Snakemake that waits for SLURM ignores SIGTERM.
pipeline() {
  local limit=$1 partition=$2 experiment=$3
  shift 3
  timeout -s KILL "$limit" snakemake "$@" --workflow-profile slurm --configfile "config/$experiment.yaml" \
    --default-resources "slurm_partition=$partition" slurm_account=none gpu_model=a100 runtime=5 "${DEPLOYMENT[@]}" \
    --slurm-status-command squeue --slurm-init-seconds-before-status-checks 3 --seconds-between-status-checks 2 \
    --latency-wait 10 >"$WORK/$experiment.out" 2>&1 &
}

job_of() { squeue -h -p "$1" -o "%i %k" | awk -v cell="$2" '$2 ~ cell {print $1}'; } # job_of PARTITION STRATEGY

experiment() { # experiment NAME [MORE SETTINGS]: config/NAME.yaml, cells of seconds
  cat >"config/$1.yaml" <<END
experiment: $1
protocol: smoke
dataset: digits
models: {vim_micro: {embed_dim: 16, depth: 4, img_size: 16, patch_size: 4}}
strategies: [baseline, upper]
seeds: [0]
fusion: {budget: proportional}
recipe: {epochs: 10, global_batch: 128, mixup_batch: 64, micro_batch: 64, lr: 2.0e-2, warmup_epochs: 0, repeats: 1,
  augmentation: tensor, rand_augment: null, hflip: 0, random_erasing: 0, eval_resize: null, ema_decay: 0.9, workers: 0}
threads: 1
container: envs/famba-cpu.sif
END
  printf '%s\n' "${@:2}" >>"config/$1.yaml"
}

asked_for() { # asked_for WORD...: all in what SLURM says of the GPU training
  local shown word
  shown=$(scontrol show job "$(job_of gpu upper)" 2>/dev/null) || return 1
  for word in "$@"; do grep -q "$word" <<<"$shown" || return 1; done
}

restarted() { scontrol show job "$1" | grep -q "Restarts=1"; } # restarted JOB

rows_agree() {
  timeout -s KILL 60 python - <<'END'
from pathlib import Path
import torch
from famba.results.row import read_row

def cell(experiment, strategy="upper"):
    folder = Path("results", experiment, "cells", f"vim_micro-{strategy}-s0")
    return read_row(folder / "row.json"), (folder / "train.log").read_text(), torch.load(folder / "weights.pt")["model"]

for strategy in ("baseline", "upper"):
    row, log, _ = cell("slurm", strategy)
    assert row.time.runs == 2, f"{row.id}: {row.time.runs} runs"
    assert "resuming after epoch" in log, log
    print(f"{row.id}: {row.time.runs} runs; {log.splitlines()[0]}; container {row.environment.container_sha256}")
alone, _, expected = cell("slurm")
for experiment in ("slurm_two", "slurm_nodes"):
    row, _, found = cell(experiment)
    assert row.environment.world_size == 2 == row.cell.processes
    apart = max((found[name] - expected[name]).abs().max().item() for name in expected)
    print(f"{experiment}: {row.environment.world_size} processes on {row.cell.nodes} nodes, weights {apart:.1e} apart")
    assert apart < 1e-5
    assert abs(row.metrics.last.top1 - alone.metrics.last.top1) < 0.6  # two of 360 images
END
}

[ "$(id -u)" = 0 ] || fail "needs root, for munged and slurmd"
needs
mkdir -p "$WORK"
stop_left_over
trap stop EXIT
start
say "SLURM $(sinfo -V | cut -d' ' -f2) is up: $(sinfo -h -N -p main -o %N | paste -sd' ')"
DEPLOYMENT=()
if [ -e envs/famba-cpu.sif ]; then
  say "trainings run in envs/famba-cpu.sif"
else
  say "envs/famba-cpu.sif is not there: trainings run in .venv"
  DEPLOYMENT=(--software-deployment-method env-modules)
fi

experiment slurm "device: cpu"
experiment slurm_two "device: cpu" "processes: 2"
experiment slurm_nodes "device: cpu" "processes: 2" "nodes: 2"
experiment slurm_gpu "device: cuda" "processes: 8" "nodes: 2"
# the one file that all have in common: a Snakemake that makes it keeps the others out
timeout -s KILL 60 snakemake data/digits.json --cores 1 --configfile config/slurm.yaml --quiet all

pipeline 420 main slurm results/slurm/summary.csv
grid=$!
# in a partition that takes jobs and starts none
pipeline 240 gpu slurm_gpu results/slurm_gpu/cells/vim_micro-upper-s0/row.json --retries 0
never=$!
wait_for 60 "the GPU training in the queue" asked_for "Partition=gpu"
asked_for "TresPerJob=gres:gpu:a100:8" "TresPerNode=gres:gpu:a100:4" "NumNodes=2" "NumTasks=2" "CPUs/Task=4" \
  "MinMemoryNode=32000M" "Requeue=1" "TimeLimit=00:16:00" || fail "$(scontrol show job)"
say "a training on 2 × 4 GPUs is queued as asked: $(squeue -h -p gpu -o '%b each of %D nodes, %C CPUs, limit %l')"
scancel "$(job_of gpu upper)"

CELLS=results/slurm/cells
wait_for 180 "a checkpoint" test -e "$CELLS/vim_micro-upper-s0/checkpoint.pt"
scancel "$(job_of main upper)"
say "scancel, with a checkpoint of $CELLS/vim_micro-upper-s0"
wait_for 180 "a checkpoint" test -e "$CELLS/vim_micro-baseline-s0/checkpoint.pt"
preempted=$(job_of main baseline)
sbatch --quiet --partition=urgent --nodes=2 --exclusive --output=/dev/null --wrap=true
wait_for 60 "a preemption" restarted "$preempted"
say "preempted, with a checkpoint of $CELLS/vim_micro-baseline-s0"
wait "$grid" || fail "the grid failed"
say "the grid is finished: $(($(wc -l <results/slurm/summary.csv) - 1)) lines in its summary"
! wait "$never" || fail "a cancelled training is no success"

for name in slurm_two slurm_nodes; do
  pipeline 300 main "$name" "results/$name/cells/vim_micro-upper-s0/row.json"
  declare "$name=$!"
done
for name in slurm_two slurm_nodes; do wait "${!name}" || fail "$name failed"; done
say "two processes on one node, and on two, are finished"
rows_agree
timeout -s KILL 60 python -m famba check --rules "$CELLS"/*/row.json
say "done"

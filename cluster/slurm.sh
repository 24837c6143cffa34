#!/bin/bash
#
# Trains with several workers on a SLURM cluster: one task is one worker.
# Submit it from the checkout, which all nodes must see at the same path:
#
#     sbatch cluster/slurm.sh --gin_file=gin/rps_softmax.gin \
#         --workdir=$PWD/runs/rps
#
# Everything after the script's name goes to framework.main. What is chosen
# below can be overridden on the command line: sbatch --nodes=4 cluster/slurm.sh

#SBATCH --job-name=train
#SBATCH --nodes=2
# One worker for every GPU, or one for all GPUs of a node: a worker uses all
# that it is given. Without GPUs: one a node, and no --gpus-per-task.
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
# Two minutes before the time is over the workers are told to save and leave.
#SBATCH --signal=TERM@120
# The job may be started anew, with the same arguments; the run continues.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

set -u

# How often the job may be started anew in all, before a crash ends it. (Where
# the time was over it is started anew in any case.)
MAX_RESTARTS=${MAX_RESTARTS:-10}
PYTHON=${PYTHON:-$PWD/.venv/bin/python}

if (( $# == 0 )); then
  echo "Error: nothing to run. Expected the flags of framework.main:" \
    "sbatch cluster/slurm.sh --gin_file=gin/rps_softmax.gin" >&2
  exit 2
fi
if ! command -v "$PYTHON" > /dev/null; then
  echo "Error: there is no $PYTHON. Expected to be submitted from a checkout" \
    "in which 'make install' was run, or PYTHON=<path> in the environment." >&2
  exit 2
fi

# A run begun with --new is to be continued, not begun once more.
flags=()
for flag in "$@"; do
  if [[ ${SLURM_RESTART_COUNT:-0} == 0 || $flag != --new ]]; then
    flags+=("$flag")
  fi
done

# --cpus-per-task: srun no longer takes it over from sbatch (SLURM 22.05).
# --gpu-bind=none: every task sees its node's GPUs, and the framework divides
#   them among the tasks.
# --kill-on-bad-exit=0, --wait: the others save, or find that they are alone,
#   and leave by themselves; who has not done so after five minutes is ended.
status=0
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  ${SLURM_GPUS_PER_TASK:+--gpu-bind=none} --kill-on-bad-exit=0 --wait=300 \
  "$PYTHON" -m framework.main "${flags[@]}" || status=$?

# srun gives the highest status of all tasks.
case $status in
  0)
    ;;
  2)
    echo "A mistake to mend; not started anew." >&2
    ;;
  143)
    echo "Saved and stopped (status 143); to be continued." >&2
    scontrol requeue "$SLURM_JOB_ID"
    ;;
  *)
    if (( ${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS )); then
      echo "Ended with status $status; to be continued." >&2
      scontrol requeue "$SLURM_JOB_ID"
    else
      echo "Ended with status $status; started anew often enough." >&2
    fi
    ;;
esac
exit "$status"

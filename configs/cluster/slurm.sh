#!/bin/bash
# A search on the nodes of a SLURM job: a Ray head and the search on the first, Ray workers on the others.
#
#   sbatch configs/cluster/slurm.sh --num-samples 200              # in the project's directory, its environment active
#   sbatch --nodes=8 --time=24:00:00 configs/cluster/slurm.sh ...  # sbatch's own options win over those below
#   sbatch configs/cluster/slurm.sh --resume runs/NAME             # go on with a search
#   scancel --batch --signal=TERM JOB                              # end it early, as its time limit would
#
# What follows slurm.sh goes to run_search.py. Without --name, the run directory is named after the job. The project and
# its environment lie in a file system that all nodes share; the run directory does, too, or lies in a bucket. A job
# that SLURM puts back into the queue goes on with its search; one that reaches its time limit says how to go on.
#
#SBATCH --job-name=convsearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
##SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --no-kill            # a node that fails costs some epochs, not the job
#SBATCH --signal=B:TERM@120  # two minutes before the time is over, to this script alone

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is not set: start this script with sbatch}"

# Whoever knows the token may run programs as you: it is in the environment of this job's processes and nowhere else.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

# The arguments of the search, and those that go on with it once it has begun.
runs=runs name=$SLURM_JOB_NAME-$SLURM_JOB_ID flag=''
for word; do
    value=$word
    if [[ $word == --*=* ]]; then flag=${word%%=*} value=${word#*=}; fi
    case $flag in
        --name) name=$value ;;
        --runs-dir | --storage-path) runs=${value%/} ;;
    esac
    flag=$word
done
again=(--resume "$runs/$name")
if [[ " $* " =~ \ --(resume|confirm|audit)[\ =] ]]; then
    again=("$@")
elif ((${SLURM_RESTART_COUNT:-0})) && [[ $runs == *://* || -e $runs/$name/search.yaml ]]; then
    set -- "${again[@]}"
else
    set -- --name "$name" "$@"
fi

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export CPUS=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
port=$((20000 + SLURM_JOB_ID % 5000 * 2)) # other jobs, with a Ray of their own, may share a node

on_nodes() { # NUMBER [SRUN OPTION...] COMMAND, in a subshell: a task on each of so many nodes that outlives the others
    exec srun --export=ALL --nodes="$1" --ntasks="$1" --ntasks-per-node=1 --cpus-per-task="$CPUS" \
        --no-kill --kill-on-bad-exit=0 --wait=0 "${@:2}"
}

ray_node() { # RAY START OPTION...: one node of the cluster, in a directory that is closed to other users
    told=''
    trap 'told=yes; kill -TERM $! 2>/dev/null' TERM
    temp=$(mktemp -d /tmp/ray-XXXXXX)
    ray start "$@" --num-cpus="$CPUS" --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
        --temp-dir="$temp/ray" --block >"$temp/log" 2>&1 &
    if [[ $told ]]; then kill -TERM $!; fi
    wait $! || [[ $told ]] || cat "$temp/log" >&2
    wait
    rm -rf "$temp"
}
export -f ray_node

# SIGTERM is handed on to the search, which then stops with a last word. Whatever ends this script ends what it started.
child='' nodes=() stopped=''
on_sigterm() {
    if [[ $child && ! $stopped ]]; then kill -TERM "$child" || true; fi
    stopped=yes
}
on_exit() {
    trap '' TERM
    for process in $child "${nodes[@]}"; do kill -TERM "$process" 2>/dev/null || true; done
    wait
}
trap on_sigterm TERM
trap on_exit EXIT

run() { # COMMAND: in the background, where a signal need not wait for its end; gives its exit code
    "$@" <&0 &
    child=$!
    if [[ $stopped ]]; then kill -TERM "$child"; fi
    while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
    local code=0
    wait "$child" || code=$? # bash remembers it
    child=''
    return "$code"
}

wait_for_nodes() { # NUMBER: until so many have joined; five minutes for the head, and as long for the others
    run python - "$address:$port" "$1" "${nodes[0]}" <<'END'
import os, sys, time, ray
address, wanted, head, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), time.monotonic() + 300
joined = 0
while joined < wanted and (time.monotonic() < end or not joined):
    try:
        os.kill(head, 0)
        ray.init(address, logging_level="CRITICAL", log_to_driver=False, ignore_reinit_error=True)
        joined = sum(node["Alive"] for node in ray.nodes())
    except ProcessLookupError:
        sys.exit("The Ray head has ended.")
    except Exception as error:  # of several kinds, while the head is starting
        if time.monotonic() > end:
            sys.exit(f"No Ray head at {address}: {error}")
    time.sleep(1)
print(f"Ray nodes: {joined} of {wanted}", flush=True)
END
}

# The head's address as the last node knows it: the head's own name may lead to a loopback address there.
address=$(on_nodes 1 --nodelist="${hosts[-1]}" getent ahostsv4 "${hosts[0]}")
address=${address%% *}
: "${address:?of ${hosts[0]} is not known on ${hosts[-1]}}"
on_nodes 1 --nodelist="${hosts[0]}" bash -c 'ray_node "$@"' ray_node --head --node-ip-address="$address" \
    --port="$port" --ray-client-server-port="$((port + 1))" --include-dashboard=false &
nodes+=($!)
wait_for_nodes 1
if ((${#hosts[@]} > 1)); then
    on_nodes "$((${#hosts[@]} - 1))" --exclude="${hosts[0]}" bash -c 'ray_node "$@"' ray_node \
        --address="$address:$port" &
    nodes+=($!)
    wait_for_nodes "${#hosts[@]}"
fi

code=0
run python run_search.py --address "$address:$port" "$@" || code=$?
if ((code == 130)); then echo "In a new job: sbatch configs/cluster/slurm.sh$(printf ' %q' "${again[@]}")"; fi
exit "$code"

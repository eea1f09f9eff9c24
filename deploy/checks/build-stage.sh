#!/bin/sh
# deploy/checks/build-stage.sh WORK: runs the build stage of deploy/Dockerfile, step by step, in an overlay over this
# machine's root: its output goes to WORK/upper, and only what it copies from the repository is there. Needs root. The
# machine replaces the stage's base image, of which only Rust and glibc are needed.
set -eu
cd "$(dirname "$0")/../.."

work=$1
[ "${OVERLAID:-}" ] || {
    rm -rf "$work/upper" "$work/inner" "$work/root"
    mkdir -p "$work/upper" "$work/inner" "$work/root"
    OVERLAID=1 exec unshare --mount --propagation private "$0" "$(cd "$work" && pwd)"
}

root=$work/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/inner" "$root"
for folder in dev proc; do mount --rbind "/$folder" "$root/$folder"; done

# The stage as a script: COPY is done from here, everything else inside.
steps() {
    sed -n '/^FROM .* AS build/,/^FROM scratch/p' deploy/Dockerfile | sed '/^#/d; /^FROM/d; /^$/d' | sed -e ':join' -e '/\\$/{N;s/\\\n *//;bjoin' -e '}'
}
directory=/
environment=
steps >"$work/steps"
while IFS= read -r step; do
    echo "build stage: $step"
    rest=${step#* }
    case ${step%% *} in
    WORKDIR) directory=$rest && mkdir -p "$root$directory" ;;
    ENV) environment="$environment export $rest;" ;;
    # Like --build-arg: the value in the environment, or else the default.
    ARG) name=${rest%%=*} && environment="$environment export $name=$(printenv "$name" || printf %s "${rest#*=}");" ;;
    COPY)
        target=$root$directory/${rest##* }
        case $target in */) mkdir -p "$target" ;; esac
        for source in ${rest% *}; do
            # COPY copies the content of a folder, into a folder with the target's name.
            if [ -d "$source" ]; then mkdir -p "$target" && source=$source/.; fi
            cp -r "$source" "$target"
        done
        ;;
    RUN) chroot "$root" /usr/bin/env -u CARGO_TARGET_DIR sh -euc "$environment cd $directory; $rest" ;;
    *) echo "deploy/checks/build-stage.sh does not know: $step" >&2 && exit 1 ;;
    esac </dev/null
done <"$work/steps"

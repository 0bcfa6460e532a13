#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# tools/kubernetes.sh VERSION DIRECTORY: build the programs of a Kubernetes cluster (v1.37.2) from Go's modules into a
# directory, those that are not there yet. What k8s.io/kubernetes has as directories of its own are modules of their
# own in the proxy: v0.37.2 of each. Takes long, once: some 2000 packages. And kube-router, which enforces network
# policies: Kubernetes has no program that does.
set -eu
version=$1 directory=$2
modules=v0.${version#v1.}
policies=github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v2.1.0
names='kube-apiserver kubelet kubectl kube-controller-manager kube-scheduler kube-proxy'
mkdir -p "$directory/src"
cd "$directory/src"
if [ "$(cat version 2>/dev/null)" != "$version" ]; then
    rm -f go.mod go.sum version
    for name in $names; do rm -f "../$name"; done
    go mod init example.org/kubernetes
    file=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
    go mod edit "-require=k8s.io/kubernetes@$version"
    sed -n 's|^\t\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$file" | while read -r module; do
        go mod edit "-replace=$module=$module@$modules"
    done
    # shellcheck disable=SC2046,SC2086 # words
    go get $(printf "k8s.io/kubernetes/cmd/%s@$version " $names)
    echo "$version" >version
fi
for name in $names; do
    [ -e "../$name" ] && continue
    echo "kubernetes: $name"
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "../$name.new" \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" "k8s.io/kubernetes/cmd/$name"
    mv "../$name.new" "../$name"
done
[ -e ../kube-router ] ||
    GOBIN=$(cd .. && pwd) CGO_ENABLED=0 go install -trimpath -buildvcs=false -ldflags '-s -w' "$policies"

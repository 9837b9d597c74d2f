#!/bin/bash
# keda-crd.sh: prints the file with the CustomResourceDefinition of KEDA's ScaledObject, out of KEDA's own Go module; nothing of it is
# built (its operator takes longer than all of Kubernetes).
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
cd "$S/tools/keda"
read -r module version < <(sed -n 's/^require //p' go.mod)
# Named with its version, so that what KEDA itself depends on is not asked for. go.sum says what it must be.
go mod download "$module@$version"
echo "$(go env GOMODCACHE)/$module@$version/config/crd/bases/keda.sh_scaledobjects.yaml"

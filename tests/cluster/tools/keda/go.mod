// KEDA, for the CustomResourceDefinition of its ScaledObject; nothing of it is built.
module chatservice.dev/tools/keda

go 1.26.0

require github.com/kedacore/keda/v2 v2.21.0

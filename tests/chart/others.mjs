// In: a JSON list of objects of other projects' kinds. Out: a JSON list of what is wrong with them, by their projects' schemas.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

// Packages are under the cache (tests/tools.sh), and not beside this file.
const cache = process.env.XDG_CACHE_HOME || `${process.env.HOME}/.cache`;
const load = async (file) => {
  const module = await import(pathToFileURL(`${cache}/chatservice/node/node_modules/@kubernetes-models/${file}.js`));
  return module.default ?? module;
};
const kinds = {
  ...(await load("flux-cd/helm.toolkit.fluxcd.io/v2/HelmRelease")),
  ...(await load("flux-cd/source.toolkit.fluxcd.io/v1/HelmRepository")),
  ...(await load("gateway-api/gateway.networking.k8s.io/v1/HTTPRoute")),
  ...(await load("keda/keda.sh/v1alpha1/ScaledObject")),
  ...(await load("prometheus-operator/monitoring.coreos.com/v1/PrometheusRule")),
  ...(await load("prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor")),
};
const wrong = [];
for (const item of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    new kinds[item.kind](item).validate();
  } catch (error) {
    wrong.push(`${item.kind} ${item.metadata.name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(wrong));

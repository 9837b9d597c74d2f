-- The health of a ChatService for Argo CD, by the same rules as kstatus. In: obj. Out: a status and a message.
local health = {status = "Progressing", message = "Waiting for the operator to look at it"}
local annotations = obj.metadata.annotations or {}
if annotations["chatservice.dev/paused"] == "true" then
  health.status = "Suspended"
  health.message = "The annotation chatservice.dev/paused is set: nothing is changed"
  return health
end
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end
local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local ready, stalled, reconciling = conditions.Ready, conditions.Stalled, conditions.Reconciling
if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = stalled.message
elseif ready == nil then
  return health
elseif ready.status == "True" then
  health.message = ready.message
  if reconciling ~= nil and reconciling.status == "True" then
    health.message = reconciling.message
  else
    health.status = "Healthy"
  end
else
  health.message = ready.message
  -- Pods that are on their way; all else waits for somebody, and the message says for what.
  if ready.reason ~= "Progressing" and ready.reason ~= "MinimumReplicasUnavailable" then
    health.status = "Degraded"
  end
end
return health

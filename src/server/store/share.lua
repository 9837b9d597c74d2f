-- Which of the pods that want an answer asks for it. Put in front of the scripts that call it.
-- `lock` is a hash: `owner` and `until` (µs of Redis' clock) of the pod that asks; `w:` and an id for each that waits, with
-- the time until which it counts; `failures` of the last owners and the `error` of the last. `id` names the pod's request.
-- Returns 0 (wait), 1 (ask), or 2 and the error that all get who waited while one after the other failed.
local function share(lock, id, lease)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local found = redis.pcall('HMGET', lock, 'owner', 'until', 'failures', 'error', 'w:' .. id)
  if found.err then
    -- Not ours.
    redis.call('DEL', lock)
    found = {}
  end
  local owner, held, waited = found[1], tonumber(found[2] or 0) or 0, found[5]
  local later = string.format('%.0f', now + lease)
  -- Clamped, for a clock that stepped back.
  if owner and owner ~= id and held > now and held <= now + lease then
    redis.call('HSET', lock, 'w:' .. id, later)
    redis.call('PEXPIRE', lock, math.floor(lease / 250))
    return {0, false}
  end
  if waited and (tonumber(found[3] or 0) or 0) >= 2 then
    return {2, found[4] or false}
  end
  if not waited then
    redis.call('HDEL', lock, 'failures', 'error')
  end
  redis.call('HDEL', lock, 'w:' .. id)
  redis.call('HSET', lock, 'owner', id, 'until', later)
  redis.call('PEXPIRE', lock, math.floor(lease / 250))
  return {1, false}
end

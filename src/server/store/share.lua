-- Which of the pods that want an answer asks for it. Behind lock.lua and a `now`: µs of Redis' clock.
-- `lock` is, once more than one has asked for it, a hash: `owner` and `until` (µs of that clock) of the pod that asks; `w:` and an
-- id for each that waits, with the time until which it counts; `failures` of the last owners and the `error` of the last. `id`
-- names the pod's request.
-- Returns 0 (wait), 1 (ask), or 2 and the error that all get who waited while one after the other failed; else false.
local later, life
local function share(lock, id, lease)
  later = later or string.format('%.0f', now + lease)
  -- As a text: Redis writes a number out anew for each command, with all digits that it could have.
  life = life or string.format('%.0f', math.floor(lease / 250))
  -- Nearly always it is free.
  if redis.call('SET', lock, id .. ' ' .. later, 'NX', 'PX', life) then
    return 1, false
  end
  as_hash(lock)
  local found = redis.pcall('HMGET', lock, 'owner', 'until', 'failures', 'error', 'w:' .. id)
  if found.err then
    -- Not ours.
    redis.call('DEL', lock)
    found = {}
  end
  local owner, failures, waited = found[1], found[3], found[5]
  if owner and owner ~= id then
    local held = tonumber(found[2] or 0) or 0
    -- Clamped, for a clock that stepped back.
    if held > now and held <= now + lease then
      redis.call('HSET', lock, 'w:' .. id, later)
      redis.call('PEXPIRE', lock, life)
      return 0, false
    end
  end
  if waited then
    if (tonumber(failures or 0) or 0) >= 2 then
      return 2, found[4] or false
    end
    redis.call('HDEL', lock, 'w:' .. id)
  elseif failures then
    redis.call('HDEL', lock, 'failures', 'error')
  end
  redis.call('HSET', lock, 'owner', id, 'until', later)
  redis.call('PEXPIRE', lock, life)
  return 1, false
end

-- A lock that nobody else has asked for is a text: its owner, a blank, and until when (µs). In front of scripts that do more
-- with one than to take it while it is free: makes it the hash that share.lua tells of.
local function as_hash(lock)
  local held = redis.pcall('GET', lock)
  if type(held) ~= 'string' then
    return
  end
  local owner, till = string.match(held, '^(%x+) (%d+)$')
  local life = redis.call('PTTL', lock)
  redis.call('DEL', lock)
  if owner and life > 0 then
    redis.call('HSET', lock, 'owner', owner, 'until', till)
    redis.call('PEXPIRE', lock, life)
  end
end


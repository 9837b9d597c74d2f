-- The owner of a lock is alive. Behind lock.lua. KEYS[1] the lock. ARGV[1] its id, ARGV[2] lease in µs.
-- Returns how many others wait, or -1 where somebody else has the lock or nobody.
as_hash(KEYS[1])
if redis.pcall('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return -1
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local lease, waiting = tonumber(ARGV[2]), 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 2) == 'w:' then
    if (tonumber(fields[i + 1]) or 0) > now then
      waiting = waiting + 1
    else
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + lease))
redis.call('PEXPIRE', KEYS[1], math.floor(lease / 250))
return waiting

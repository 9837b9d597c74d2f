-- What came of it for one of those who share a lock, where that is no answer. Behind lock.lua. KEYS[1] the lock.
-- ARGV[1] its id; ARGV[2] `failed`, then the error, whether nobody is to try again (1 or 0), and the lease in µs; or `left`.
local lock, id, what = KEYS[1], ARGV[1], ARGV[2]
as_hash(lock)
local owns = redis.pcall('HGET', lock, 'owner') == id
if what == 'failed' and owns then
  local time = redis.call('TIME')
  local failures = tonumber(redis.call('HGET', lock, 'failures') or 0) or 0
  local lease = tonumber(ARGV[5])
  failures = ARGV[4] == '1' and 2 or failures + 1
  redis.call('HDEL', lock, 'owner', 'until')
  -- Its pod may be the one that tries again.
  local later = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]) + lease)
  redis.call('HSET', lock, 'failures', failures, 'error', ARGV[3], 'w:' .. id, later)
  redis.call('PEXPIRE', lock, math.floor(lease / 250))
elseif what == 'left' then
  redis.pcall('HDEL', lock, 'w:' .. id)
  if owns then
    redis.call('HDEL', lock, 'owner', 'until')
  end
end
return 0

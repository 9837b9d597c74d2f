-- What came of it for one of those who share a lock. KEYS[1] the lock, KEYS[2] the answer (with `answer`).
-- ARGV[1] its id; ARGV[2] `answer`, then the answer and its life in ms; `failed`, then the error, whether nobody is to try
-- again (1 or 0), and the lease in µs; or `left`.
local lock, id, what = KEYS[1], ARGV[1], ARGV[2]
if what == 'answer' then
  redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
end
local owns = redis.pcall('HGET', lock, 'owner') == id
if what == 'answer' and owns then
  -- Those who wait look for the answer first.
  redis.call('DEL', lock)
elseif what == 'failed' and owns then
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

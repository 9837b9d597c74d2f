-- Counts the servers that share this Redis. KEYS[1] a sorted set of them by the µs of their last heartbeat.
-- ARGV[1] this server, ARGV[2] µs after which one is not counted any more, ARGV[3] life of the key in ms.
-- Returns how many there are.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local added = redis.pcall('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
if type(added) ~= 'number' then
  -- Any other error is raised by the second try: a full Redis runs UNLINK, and then refuses nothing behind it.
  if string.find(added.err, '^WRONGTYPE') then
    redis.call('UNLINK', KEYS[1])
  end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
end
-- What is of later than now is of before the clock stepped back, or not ours.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[2])))
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('ZCARD', KEYS[1])

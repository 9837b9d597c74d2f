-- Charges requests that were already served. The rule is limits::charge: buckets may go below empty, by one more bucket.
-- KEYS the buckets. ARGV[1] life of the keys in ms; then for each key: µs in which a request refills, µs in which an
-- empty bucket fills, the number of requests. Answers the time, and when each bucket will be full, in µs.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local answer = {now}
for i, key in ipairs(KEYS) do
  local interval, bucket = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local requests = tonumber(ARGV[3 * i + 1])
  local deepest = now + bucket * 2
  local stored = redis.pcall('GET', key)
  local full_at = type(stored) == 'string' and tonumber(stored) or now
  full_at = math.min(math.max(now, math.floor(full_at)), deepest)
  full_at = math.min(full_at + interval * requests, deepest)
  redis.call('SET', key, string.format('%.0f', full_at), 'PX', ARGV[1])
  answer[i + 1] = full_at
end
return answer

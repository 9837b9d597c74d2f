-- Charges one request to a bucket and, if it is admitted, looks for a cached answer. The rule is limits::decide.
-- KEYS[1] the bucket: µs of Redis' clock at which it is full. KEYS[2] the cached answer (optional).
-- ARGV[1] µs in which a request refills, ARGV[2] µs in which an empty bucket fills, ARGV[3] life of the key in ms.
-- Returns: admitted (0 or 1), the bucket, now, the answer or nil. A refusal writes nothing.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, bucket = tonumber(ARGV[1]), tonumber(ARGV[2])

-- What is not a number (another type, text, NaN) counts as a new caller, and the SET below replaces it.
local stored = redis.pcall('GET', KEYS[1])
local full_at = type(stored) == 'string' and tonumber(stored) or now
-- Never before now; never further ahead than an empty bucket and its debt, or a clock that stepped back locks callers out.
full_at = math.min(math.max(now, math.floor(full_at)), now + bucket * 2)

local charged = full_at + interval
if charged - now > bucket then
  return {0, full_at, now, false}
end
-- Not `..`, which rounds to 14 digits.
redis.call('SET', KEYS[1], string.format('%.0f', charged), 'PX', ARGV[3])

local answer = false
if KEYS[2] then
  answer = redis.pcall('GET', KEYS[2])
  if type(answer) ~= 'string' then
    answer = false
  end
end
return {1, charged, now, answer}

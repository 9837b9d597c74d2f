-- Looks for an answer and, where there is none, for who asks for it; behind lock.lua and share.lua.
-- KEYS[1] the answer, KEYS[2] its lock. ARGV[1] id, ARGV[2] lease in µs.
-- Returns 3 and the answer, or what share() says.
local answer = redis.pcall('GET', KEYS[1])
if type(answer) == 'string' then
  return {3, answer}
end
return {share(KEYS[2], ARGV[1], tonumber(ARGV[2]))}

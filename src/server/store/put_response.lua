-- Keeps a response.
-- KEYS[1] the response: a string.
-- ARGV[1] what is stored; ARGV[2] life in ms; ARGV[3] µs of this clock after which nobody waits for the answer any more: a response
-- of which was told that it is not stored must not be there once a frozen Redis thaws.
-- Behind clock.lua. Returns now, and 1; 2 where it is too late.
if now > tonumber(ARGV[3]) then
  return {now, 2}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {now, 1}

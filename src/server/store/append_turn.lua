-- Appends a whole turn to a conversation, trims it to its last turns and renews its life.
-- KEYS[1] the conversation: a list with one turn per element, so that trimming cannot halve one.
-- ARGV[1] '1' if this is the first turn; ARGV[2] turns to keep, as a negative index; ARGV[3] life in ms; ARGV[4] the turn.
-- Returns 0 where the conversation is gone: a later turn does not bring it back.
if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('RPUSH', KEYS[1], ARGV[4])
redis.call('LTRIM', KEYS[1], ARGV[2], -1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1

-- Keeps a changed copy of a dead letter, or drops it.
-- KEYS: group, dead letters, their changed copies, what was brought back   ARGV: number, the copy or '' to drop it
local there = redis.call('XRANGE', KEYS[2], ARGV[1] .. '-0', ARGV[1] .. '-0')[1]
if not there or redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 then
  return 0
end
local size = #ARGV[2] - redis.call('HSTRLEN', KEYS[3], ARGV[1])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[3], ARGV[1])
else
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
end
redis.call('HINCRBY', KEYS[1], 'dead_bytes', size)
return 1

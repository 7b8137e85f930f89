-- Moves a group on one partition.
-- KEYS: members, shard, settled, messages that come again   ARGV: position, messages before it, 1 also while members live
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '0' and redis.call('ZCOUNT', KEYS[1], string.format('%.0f', now), '+inf') > 0 then
  return 0
end
redis.call('HDEL', KEYS[2], 'owner')
redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'low', ARGV[1], 'out', ARGV[1], 'before', ARGV[2], 'done', 0)
redis.call('DEL', KEYS[3], KEYS[4])
return 1

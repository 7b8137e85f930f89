-- Moves a group on one partition. What was brought back of it is dead again: it comes from the log, or is passed over.
-- KEYS: group, members, shard, settled, messages that come again, what was brought back, what holds keys
-- ARGV: position, messages before it, 1 also while members live
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] == '0' and redis.call('ZCOUNT', KEYS[2], string.format('%.0f', now), '+inf') > 0 then
  return 0
end
redis.call('HDEL', KEYS[3], 'owner')
redis.call('HINCRBY', KEYS[3], 'epoch', 1)
redis.call('HSET', KEYS[3], 'low', ARGV[1], 'out', ARGV[1], 'before', ARGV[2], 'done', 0)
for _, number in ipairs(redis.call('HKEYS', KEYS[6])) do
  end_back(KEYS[1], KEYS[6], number)
end
redis.call('DEL', KEYS[4], KEYS[5], KEYS[7])
return 1

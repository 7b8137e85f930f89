-- A member joins a group; partitions that the group has no position for get theirs.
-- KEYS: topic's settings, group, members, names, groups of the topic, shards ..
-- ARGV: group's name, member, its name for people, what it declares, session in ms, then of each shard: position, messages before it
redis.call('HSET', KEYS[2], 'declared', ARGV[4])
redis.call('SADD', KEYS[5], ARGV[1])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[3], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5]), ARGV[2])
redis.call('HSET', KEYS[4], ARGV[2], ARGV[3])
for i = 6, #KEYS do
  local at = 6 + 2 * (i - 6)
  if ARGV[at] ~= '' and redis.call('HSETNX', KEYS[i], 'low', ARGV[at]) == 1 then
    redis.call('HSET', KEYS[i], 'out', ARGV[at], 'before', ARGV[at + 1], 'done', 0, 'epoch', 0)
  end
end
return 1

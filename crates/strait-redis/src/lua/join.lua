-- A member joins a group; partitions that the group has no position for get theirs.
-- KEYS: topic's settings, group, members, names, groups of the topic, of each partition its shard and what holds keys ..
-- ARGV: group's name, member, its name for people, what it declares or '', session in ms, 1 when dead letters hold no keys, then of each
--       shard: position, messages before it
if ARGV[4] ~= '' and redis.call('HGET', KEYS[2], 'declared') ~= ARGV[4] then
  redis.call('HSET', KEYS[2], 'declared', ARGV[4])
  redis.call('HINCRBY', KEYS[2], 'rev', 1)
end
redis.call('SADD', KEYS[5], ARGV[1])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[3], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5]), ARGV[2])
redis.call('HSET', KEYS[4], ARGV[2], ARGV[3])
for i = 6, #KEYS, 2 do
  local at = 7 + (i - 6)
  if ARGV[at] ~= '' and redis.call('HSETNX', KEYS[i], 'low', ARGV[at]) == 1 then
    redis.call('HSET', KEYS[i], 'out', ARGV[at], 'before', ARGV[at + 1], 'done', 0, 'epoch', 0)
  end
  if ARGV[6] == '1' then
    redis.call('DEL', KEYS[i + 1])
  end
end
return 1

-- Stores the settings of a topic, and makes streams that are not there.
-- KEYS: settings, streams ..   ARGV: partitions, retention in ms or -1, dedupe window in ms, 1 to change what is there, retention in bytes or -1
if ARGV[4] == '0' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
for i = 2, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return KEYS[i]
  end
end
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    -- A group makes the stream; without it the stream stays, empty.
    redis.call('XGROUP', 'CREATE', KEYS[i], 'strait', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', KEYS[i], 'strait')
  end
end
-- A topic of the same name that is made again knows nothing of the ids of this one.
local now = redis.call('TIME')
redis.call('HSETNX', KEYS[1], 'made', now[1] .. '.' .. now[2])
redis.call('HSET', KEYS[1], 'partitions', ARGV[1], 'dedupe_ms', ARGV[3])
for name, value in pairs({retention_ms = ARGV[2], retention_bytes = ARGV[5]}) do
  if value == '-1' then
    redis.call('HDEL', KEYS[1], name)
  else
    redis.call('HSET', KEYS[1], name, value)
  end
end
return 1

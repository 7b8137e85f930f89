-- Removes what is older than the retention of a topic.
-- KEYS: settings, streams ..
local age = redis.call('HGET', KEYS[1], 'retention_ms')
if not age then
  return 0
end
local now = redis.call('TIME')
local before = now[1] * 1000 + math.floor(now[2] / 1000) - age
local removed = 0
for i = 2, #KEYS do
  removed = removed + redis.call('XTRIM', KEYS[i], 'MINID', string.format('%d', before))
end
return removed

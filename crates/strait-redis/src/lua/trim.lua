-- Removes what is older than the retention of a topic from one of its streams, and not what a group has not settled.
-- KEYS: settings, stream, shards of the groups ..
local age = redis.call('HGET', KEYS[1], 'retention_ms')
if not age then
  return 0
end
local now = redis.call('TIME')
local before = now[1] * 1000 + math.floor(now[2] / 1000) - age
if before <= 0 then
  return 0
end
local least = string.format('%.0f-0', before)
for i = 3, #KEYS do
  local low = redis.call('HGET', KEYS[i], 'low')
  if low then
    local millis = tonumber(string.match(low, '^(%d+)'))
    if millis < before then
      before, least = millis, low
    end
  end
end
-- Redis does not say what was trimmed: readers that are behind it have to know.
local last = redis.call('XREVRANGE', KEYS[2], '(' .. least, '-', 'COUNT', 1)
if last[1] then
  redis.call('HSET', KEYS[1], 'trimmed ' .. KEYS[2], last[1][1])
end
return redis.call('XTRIM', KEYS[2], 'MINID', least)

-- Removes what the retention of a topic does not keep from one of its streams, and not what a group has not settled. 1: there may be more.
-- KEYS: settings, stream, shards of the groups ..   ARGV: most entries and most bytes that are looked at
local kept = redis.call('HMGET', KEYS[1], 'retention_ms', 'retention_bytes')
local least
if kept[1] then
  local now = redis.call('TIME')
  local age = now[1] * 1000 + math.floor(now[2] / 1000) - kept[1]
  if age > 0 then least = string.format('%.0f-0', age) end
end
local more = 0
local len = kept[2] and redis.call('XLEN', KEYS[2]) or 0
if len > 1 then
  local used = redis.call('MEMORY', 'USAGE', KEYS[2])
  local surplus = math.min(len - 1, math.floor(len * (used - kept[2]) / used))
  if surplus > 0 then
    local most = math.max(1, math.min(tonumber(ARGV[1]), math.floor(ARGV[2] * len / used)))
    if surplus > most then surplus, more = most, 1 end
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', surplus + 1)
    local cut = first[#first][1]
    if not least or before(least, cut) then least = cut end
  end
end
if not least then
  return 0
end
for i = 3, #KEYS do
  local low = redis.call('HGET', KEYS[i], 'low')
  if low and before(low, least) then
    least, more = low, 0
  end
end
-- Redis does not say what was trimmed: readers that are behind it have to know.
local last = redis.call('XREVRANGE', KEYS[2], '(' .. least, '-', 'COUNT', 1)
if last[1] then
  redis.call('HSET', KEYS[1], 'trimmed ' .. KEYS[2], last[1][1])
end
redis.call('XTRIM', KEYS[2], 'MINID', least)
return more

-- Appends a batch unless one of its ids is known, or the stream ends elsewhere.
-- KEYS: stream, ids ..   ARGV: expected end or '', dedupe window in ms, records: count, then of each the number of fields and these
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'missing', ''}
end
for i = 2, #KEYS do
  local first = redis.call('GET', KEYS[i])
  if first then
    return {'known', first}
  end
end
if ARGV[1] ~= '' then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  local last
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  -- The end is right behind the last id; of a stream that never had one it is 0-0.
  local millis, sequence = string.match(last, '^(%d+)%-(%d+)$')
  local ends = last
  if last ~= '0-0' then
    if sequence == '18446744073709551615' then
      ends = string.format('%d-0', millis + 1)
    else
      ends = millis .. '-' .. string.format('%d', sequence + 1)
    end
  end
  if ends ~= ARGV[1] then
    return {'ends', ends}
  end
end
local at, first = 4, nil
for _ = 1, tonumber(ARGV[3]) do
  local fields = tonumber(ARGV[at])
  local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + fields))
  first = first or id
  at = at + 1 + fields
end
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], first, 'PX', ARGV[2])
end
return {'added', first}

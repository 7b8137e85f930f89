-- One unit: what is remembered of a key, and batches, all or none of it.
-- KEYS: what is remembered, or nothing; then of each batch its stream and its ids.
-- ARGV: 1 with a key to remember, token or '', 'store' or 'forget', result, time to live in ms;
--       number of batches; of each: expected end or '', window in ms, number of ids, number of records,
--       and of each record the number of fields and these
local key, at = 1, 7
local remembers = ARGV[1] == '1'
if remembers then
  local known = redis.call('HMGET', KEYS[1], 'state', 'token', 'until', 'result')
  key = 2
  if known[1] == 'done' then
    return {'seen', known[4]}
  end
  if ARGV[2] ~= '' and (known[1] ~= 'runs' or known[2] ~= ARGV[2]) then
    return {'fenced'}
  end
  if ARGV[2] == '' and known[1] == 'runs' then
    local now = redis.call('TIME')
    if tonumber(known[3]) > now[1] * 1000 + math.floor(now[2] / 1000) then
      return {'busy'}
    end
  end
end
-- Everything that can fail is looked at before the first change: a script is not undone.
local batches = {}
for i = 1, tonumber(ARGV[6]) do
  local batch = {stream = KEYS[key], expected = ARGV[at], window = ARGV[at + 1], ids = {}, records = tonumber(ARGV[at + 3])}
  local kind = redis.call('TYPE', batch.stream).ok
  if kind == 'none' then
    return {'missing', i}
  elseif kind ~= 'stream' then
    return {'other', i}
  end
  for j = 1, tonumber(ARGV[at + 2]) do
    batch.ids[j] = KEYS[key + j]
    batch.known = batch.known or redis.call('GET', batch.ids[j])
  end
  if batch.expected ~= '' and not batch.known then
    local info = redis.call('XINFO', 'STREAM', batch.stream)
    local last
    for k = 1, #info, 2 do
      if info[k] == 'last-generated-id' then last = info[k + 1] end
    end
    local millis, sequence = string.match(last, '^(%d+)%-(%d+)$')
    local ends = last
    if last ~= '0-0' then
      ends = millis .. '-' .. string.format('%d', sequence + 1)
    end
    if ends ~= batch.expected then
      return {'ends', i, ends}
    end
  end
  key = key + 1 + #batch.ids
  at = at + 4
  batch.at = at
  for _ = 1, batch.records do
    at = at + 1 + tonumber(ARGV[at])
  end
  batches[i] = batch
end
local answer = {'applied'}
for i, batch in ipairs(batches) do
  local first = batch.known
  if not first then
    local from = batch.at
    for _ = 1, batch.records do
      local fields = tonumber(ARGV[from])
      local id = redis.call('XADD', batch.stream, '*', unpack(ARGV, from + 1, from + fields))
      first = first or id
      from = from + 1 + fields
    end
    for _, id in ipairs(batch.ids) do
      redis.call('SET', id, first, 'PX', batch.window)
    end
  end
  answer[2 * i] = batch.known and 'known' or 'added'
  answer[2 * i + 1] = first
end
if remembers then
  if ARGV[3] == 'forget' then
    redis.call('DEL', KEYS[1])
  elseif tonumber(ARGV[5]) > 0 then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'state', 'done', 'result', ARGV[4])
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
  end
end
return answer

-- One unit: messages that end, what is remembered of a key, and batches, all or none of it.
-- KEYS: what is remembered, or nothing; of each shard: it, what is settled, what comes again, its group, its dead letters, their changed
--       copies, what was brought back, what holds keys; then of each batch its stream and its ids.
-- ARGV: 1 with a key to remember, token or '', 'store' or 'forget', result, time to live in ms;
--       number of shards; of each: epoch, number of steps, and of each step: 'done', from, to, count, position or '';
--       'again', position, what is known; 'dead', from, to, position, number or '' of what was brought back, stream of a copy or '',
--       'key' and the key that is held or '', number of fields and these; of what was brought back also 'ended', number;
--       'waits', number, what is known;
--       number of batches; of each: expected end or '', window in ms, number of ids, number of records,
--       and of each record the number of fields and these
local key, at = 1, 7
local shards = {}
local seen
local remembers = ARGV[1] == '1'
if remembers then
  local known = redis.call('HMGET', KEYS[1], 'state', 'token', 'until', 'result')
  key = 2
  if known[1] == 'done' then
    seen = known[4]
  elseif ARGV[2] ~= '' and (known[1] ~= 'runs' or known[2] ~= ARGV[2]) then
    return {'fenced'}
  elseif ARGV[2] == '' and known[1] == 'runs' then
    local now = redis.call('TIME')
    if tonumber(known[3]) > now[1] * 1000 + math.floor(now[2] / 1000) then
      return {'busy'}
    end
  end
end
for i = 1, tonumber(ARGV[6]) do
  local shard = {key = key, steps = tonumber(ARGV[at + 1]), at = at + 2}
  local held = redis.call('HMGET', KEYS[key], 'epoch', 'owner')
  shard.valid = held[1] == ARGV[at] and held[2]
  key, at = key + 8, at + 2
  for _ = 1, shard.steps do
    if ARGV[at] == 'done' then
      at = at + 5
    elseif ARGV[at] == 'again' or ARGV[at] == 'waits' then
      at = at + 3
    elseif ARGV[at] == 'ended' then
      at = at + 2
    else
      if ARGV[at + 5] ~= '' and redis.call('TYPE', ARGV[at + 5]).ok ~= 'stream' then
        return {'nowhere', ARGV[at + 5]}
      end
      at = at + 8 + tonumber(ARGV[at + 7])
    end
  end
  shards[i] = shard
end
-- A result that is known settles, whatever else; a receipt that was lost does not.
for _, shard in ipairs(shards) do
  if not shard.valid then
    return {'fenced'}
  end
end
local function end_one(shard, at)
  local first = shard.key
  local key, settled, again, group = KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3]
  local dead, edits, back, held = KEYS[first + 4], KEYS[first + 5], KEYS[first + 6], KEYS[first + 7]
  if ARGV[at] == 'done' then
    settle(key, settled, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    if ARGV[at + 4] ~= '' then redis.call('HDEL', again, ARGV[at + 4]) end
    return at + 5
  elseif ARGV[at] == 'again' then
    redis.call('HSET', again, ARGV[at + 1], ARGV[at + 2])
    return at + 3
  elseif ARGV[at] == 'ended' then
    drop_letter(group, dead, edits, ARGV[at + 1])
    end_back(group, back, ARGV[at + 1])
    return at + 2
  elseif ARGV[at] == 'waits' then
    redis.call('HSET', back, ARGV[at + 1], ARGV[at + 2])
    return at + 3
  end
  local fields = {}
  for i = at + 8, at + 7 + tonumber(ARGV[at + 7]) do fields[#fields + 1] = ARGV[i] end
  local number = bury(group, dead, ARGV[at + 5], fields)
  if ARGV[at + 6] ~= '' then
    redis.call('HSET', held, number, string.sub(ARGV[at + 6], 4))
  end
  if ARGV[at + 4] ~= '' then
    drop_letter(group, dead, edits, ARGV[at + 4])
    end_back(group, back, ARGV[at + 4])
  else
    settle(key, settled, ARGV[at + 1], ARGV[at + 2], 1)
    redis.call('HDEL', again, ARGV[at + 3])
  end
  return at + 8 + #fields
end
local function end_all()
  for _, shard in ipairs(shards) do
    local at = shard.at
    for _ = 1, shard.steps do at = end_one(shard, at) end
  end
end
if seen then
  end_all()
  return {'seen', seen}
end
-- Everything that can fail is looked at before the first change: a script is not undone.
local batches = {}
local count = tonumber(ARGV[at])
at = at + 1
for i = 1, count do
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
end_all()
local answer = {'applied'}
for i, batch in ipairs(batches) do
  local first = batch.known
  if not first then
    local from, millis, sequence = batch.at, nil, nil
    for _ = 1, batch.records do
      local fields = tonumber(ARGV[from])
      -- The clock may go on meanwhile: the ids of a batch follow each other all the same.
      local id = '*'
      if first then
        sequence = sequence + 1
        id = millis .. '-' .. string.format('%.0f', sequence)
      end
      id = redis.call('XADD', batch.stream, id, unpack(ARGV, from + 1, from + fields))
      if not first then
        first = id
        millis, sequence = string.match(id, '^(%d+)%-(%d+)$')
      end
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

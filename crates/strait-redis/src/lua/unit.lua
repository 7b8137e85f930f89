-- One unit: messages that end, what is remembered of a key, and batches, all or none of it.
-- KEYS: what is remembered, or nothing; of each shard: it, what is settled, what comes again, its group, its dead letters; then of each
--       batch its stream and its ids.
-- ARGV: 1 with a key to remember, token or '', 'store' or 'forget', result, time to live in ms;
--       number of shards; of each: epoch, number of steps, and of each step: 'done', from, to, count, position or '';
--       'again', position, what is known; 'dead', from, to, position, stream of a copy or '', number of fields and these;
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
  key, at = key + 5, at + 2
  for _ = 1, shard.steps do
    if ARGV[at] == 'done' then
      at = at + 5
    elseif ARGV[at] == 'again' then
      at = at + 3
    else
      if ARGV[at + 4] ~= '' and redis.call('TYPE', ARGV[at + 4]).ok ~= 'stream' then
        return {'nowhere', ARGV[at + 4]}
      end
      at = at + 6 + tonumber(ARGV[at + 5])
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
local function settle(shard, from, to, count)
  local low = redis.call('HGET', KEYS[shard.key], 'low')
  if low == from then
    while to do
      low = to
      to = redis.call('HGET', KEYS[shard.key + 1], low)
      if to then redis.call('HDEL', KEYS[shard.key + 1], low) end
    end
    redis.call('HSET', KEYS[shard.key], 'low', low)
  else
    redis.call('HSET', KEYS[shard.key + 1], from, to)
  end
  redis.call('HINCRBY', KEYS[shard.key], 'done', count)
end
local function end_all()
  for _, shard in ipairs(shards) do
    local at = shard.at
    for _ = 1, shard.steps do
      if ARGV[at] == 'done' then
        settle(shard, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
        if ARGV[at + 4] ~= '' then redis.call('HDEL', KEYS[shard.key + 2], ARGV[at + 4]) end
        at = at + 5
      elseif ARGV[at] == 'again' then
        redis.call('HSET', KEYS[shard.key + 2], ARGV[at + 1], ARGV[at + 2])
        at = at + 3
      else
        local fields = tonumber(ARGV[at + 5])
        local number = redis.call('HINCRBY', KEYS[shard.key + 3], 'deaths', 1)
        redis.call('XADD', KEYS[shard.key + 4], number .. '-0', unpack(ARGV, at + 6, at + 5 + fields))
        local size = 0
        for j = at + 6, at + 5 + fields do size = size + #ARGV[j] end
        redis.call('HINCRBY', KEYS[shard.key + 3], 'dead_bytes', size)
        if ARGV[at + 4] ~= '' then
          redis.call('XADD', ARGV[at + 4], '*', unpack(ARGV, at + 6, at + 5 + fields))
        end
        settle(shard, ARGV[at + 1], ARGV[at + 2], 1)
        redis.call('HDEL', KEYS[shard.key + 2], ARGV[at + 3])
        at = at + 6 + fields
      end
    end
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

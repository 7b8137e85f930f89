-- What the scripts share that change dead letters.
local function size_of(fields)
  local size = 0
  for _, text in ipairs(fields) do size = size + #text end
  return size
end
-- Whether one stream id lies before another, whatever their length.
local function before(a, b)
  local am, as = string.match(a, '^(%d+)%-(%d+)$')
  local bm, bs = string.match(b, '^(%d+)%-(%d+)$')
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
-- A dead letter goes for good, with its changed copy.
local function drop_letter(group, dead, edits, number)
  local found = redis.call('XRANGE', dead, number .. '-0', number .. '-0')
  if not found[1] then return false end
  local size = size_of(found[1][2])
  local edit = redis.call('HGET', edits, number)
  if edit then
    size = size + #edit
    redis.call('HDEL', edits, number)
  end
  redis.call('XDEL', dead, number .. '-0')
  redis.call('HINCRBY', group, 'dead_bytes', -size)
  return true
end
-- What was brought back ends.
local function end_back(group, back, number)
  if redis.call('HDEL', back, number) == 1 then
    redis.call('HINCRBY', group, 'backs', -1)
  end
end
local function bury(group, dead, copy, fields)
  local number = redis.call('HINCRBY', group, 'deaths', 1)
  redis.call('XADD', dead, string.format('%.0f-0', number), unpack(fields))
  redis.call('HINCRBY', group, 'dead_bytes', size_of(fields))
  if copy ~= '' then
    redis.call('XADD', copy, '*', unpack(fields))
  end
  return string.format('%.0f', number)
end
-- Members have to look again before they grant anything.
local function changed(group)
  redis.call('HINCRBY', group, 'rev', 1)
end
-- Messages between two positions are settled.
local function settle(shard, settled, from, to, count)
  local low = redis.call('HGET', shard, 'low')
  if low == from then
    while to do
      low = to
      to = redis.call('HGET', settled, low)
      if to then redis.call('HDEL', settled, low) end
    end
    redis.call('HSET', shard, 'low', low)
  else
    redis.call('HSET', settled, from, to)
  end
  redis.call('HINCRBY', shard, 'done', count)
end

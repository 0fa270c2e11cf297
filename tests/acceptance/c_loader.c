/* Loads an exported model by TensorFlow's C API alone, and answers requests.

   c_loader SAVED_MODEL REQUESTS

   REQUESTS is a text file, which `c_loader.py` writes; a tensor's name is that of its
   operation and its position there. A path has no spaces.

     input OPERATION POSITION float32|int32|string RANK SIDE... FILE
     output NAME OPERATION POSITION
     run NAME

   FILE holds the numbers as they lie in memory; of strings, each one's length as eight
   bytes, then its bytes. Every `run` writes one line of JSON to stdout: outputs by name,
   or the code and the message of TensorFlow's status. */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

enum { MOST_TENSORS = 16, MOST_SIDES = 8, NAME_BYTES = 256, PATH_BYTES = 4096 };

typedef struct {
  TF_Output inputs[MOST_TENSORS];
  TF_Tensor* fed[MOST_TENSORS];
  int input_count;
  TF_Output outputs[MOST_TENSORS];
  char output_names[MOST_TENSORS][NAME_BYTES];
  int output_count;
} Request;

static void fail(const char* what, const char* which) {
  fprintf(stderr, "%s: %s\n", what, which);
  exit(2);
}

static char* read_file(const char* path, size_t* length) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail("no such file", path);
  fseek(file, 0, SEEK_END);
  *length = (size_t)ftell(file);
  rewind(file);
  /* Never NULL, even of an empty file. */
  char* content = malloc(*length + 1);
  if (content == NULL || fread(content, 1, *length, file) != *length)
    fail("cannot read", path);
  fclose(file);
  return content;
}

static TF_Tensor* strings_tensor(const int64_t* sides, int rank, int64_t count,
                                 const char* content) {
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, sides, rank,
                                        (size_t)count * sizeof(TF_TString));
  TF_TString* strings = TF_TensorData(tensor);
  for (int64_t i = 0; i < count; ++i) {
    uint64_t length;
    memcpy(&length, content, sizeof length);
    content += sizeof length;
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], content, (size_t)length);
    content += length;
  }
  return tensor;
}

static TF_Tensor* read_tensor(const char* type, const int64_t* sides, int rank,
                              const char* path) {
  int64_t count = 1;
  for (int i = 0; i < rank; ++i) count *= sides[i];
  size_t length;
  char* content = read_file(path, &length);
  TF_Tensor* tensor;
  if (strcmp(type, "string") == 0) {
    tensor = strings_tensor(sides, rank, count, content);
  } else {
    TF_DataType number = strcmp(type, "int32") == 0 ? TF_INT32 : TF_FLOAT;
    if (length != 4 * (size_t)count) fail("not as many numbers as its shape", path);
    tensor = TF_AllocateTensor(number, sides, rank, length);
    /* Of a tensor of nothing there is no data to write to. */
    if (length > 0) memcpy(TF_TensorData(tensor), content, length);
  }
  free(content);
  return tensor;
}

static TF_Output find_output(TF_Graph* graph, const char* name, int position) {
  TF_Output found = {TF_GraphOperationByName(graph, name), position};
  if (found.oper == NULL) fail("no such operation", name);
  return found;
}

/* Reads what follows `input` on a line. */
static void read_input(FILE* file, TF_Graph* graph, Request* request) {
  char name[NAME_BYTES], type[NAME_BYTES], path[PATH_BYTES];
  int position, rank;
  int64_t sides[MOST_SIDES];
  if (fscanf(file, "%255s %d %255s %d", name, &position, type, &rank) != 4 ||
      rank > MOST_SIDES || request->input_count == MOST_TENSORS)
    fail("not an input", "see the first comment");
  for (int i = 0; i < rank; ++i)
    if (fscanf(file, "%" SCNd64, &sides[i]) != 1) fail("no side", name);
  if (fscanf(file, "%4095s", path) != 1) fail("no file", name);
  int last = request->input_count++;
  request->inputs[last] = find_output(graph, name, position);
  request->fed[last] = read_tensor(type, sides, rank, path);
}

/* Reads what follows `output` on a line. */
static void read_output(FILE* file, TF_Graph* graph, Request* request) {
  char name[NAME_BYTES];
  int position, last = request->output_count++;
  if (last == MOST_TENSORS ||
      fscanf(file, "%255s %255s %d", request->output_names[last], name, &position) != 3)
    fail("not an output", "see the first comment");
  request->outputs[last] = find_output(graph, name, position);
}

static void print_text(const char* text, size_t length) {
  putchar('"');
  for (size_t i = 0; i < length; ++i) {
    unsigned char byte = (unsigned char)text[i];
    if (byte == '"' || byte == '\\')
      printf("\\%c", byte);
    else if (byte < 0x20)
      printf("\\u%04x", byte);
    else
      putchar(byte);
  }
  putchar('"');
}

static void print_element(TF_Tensor* tensor, int64_t i) {
  void* data = TF_TensorData(tensor);
  TF_TString* strings = data;
  double number;
  switch (TF_TensorType(tensor)) {
    case TF_FLOAT:
      number = ((float*)data)[i];
      /* As Python's `json` reads what is not finite. */
      if (number != number)
        printf("NaN");
      else if (number - number != 0)
        printf(number > 0 ? "Infinity" : "-Infinity");
      else
        printf("%.9g", number);
      break;
    case TF_INT64:
      printf("%" PRId64, ((int64_t*)data)[i]);
      break;
    case TF_BOOL:
      printf(((unsigned char*)data)[i] ? "true" : "false");
      break;
    case TF_STRING:
      print_text(TF_StringGetDataPointer(&strings[i]), TF_StringGetSize(&strings[i]));
      break;
    default:
      fail("an output", "of a type that is not expected");
  }
}

static void print_tensor(const char* name, TF_Tensor* tensor) {
  print_text(name, strlen(name));
  printf(": {\"shape\": [");
  for (int i = 0; i < TF_NumDims(tensor); ++i)
    printf("%s%" PRId64, i ? ", " : "", TF_Dim(tensor, i));
  printf("], \"values\": [");
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i) {
    if (i) printf(", ");
    print_element(tensor, i);
  }
  printf("]}");
}

static void delete_tensor(TF_Tensor* tensor) {
  if (TF_TensorType(tensor) == TF_STRING) {
    TF_TString* strings = TF_TensorData(tensor);
    for (int64_t i = 0; i < TF_TensorElementCount(tensor); ++i)
      TF_StringDealloc(&strings[i]);
  }
  TF_DeleteTensor(tensor);
}

/* Runs a request, prints the line of it, and makes place for the next. */
static void answer(TF_Session* session, const char* name, Request* request) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor* given[MOST_TENSORS] = {NULL};
  TF_SessionRun(session, NULL, request->inputs, request->fed, request->input_count,
                request->outputs, given, request->output_count, NULL, 0, NULL, status);
  printf("{\"request\": \"%s\", \"code\": %d, \"message\": ", name,
         (int)TF_GetCode(status));
  print_text(TF_Message(status), strlen(TF_Message(status)));
  printf(", \"outputs\": {");
  for (int i = 0; TF_GetCode(status) == TF_OK && i < request->output_count; ++i) {
    if (i) printf(", ");
    print_tensor(request->output_names[i], given[i]);
    delete_tensor(given[i]);
  }
  printf("}}\n");
  /* If a later request kills the process, what was answered is known. */
  fflush(stdout);
  for (int i = 0; i < request->input_count; ++i) delete_tensor(request->fed[i]);
  memset(request, 0, sizeof *request);
  TF_DeleteStatus(status);
}

static void answer_all(TF_Session* session, TF_Graph* graph, const char* path) {
  static Request request;
  char word[NAME_BYTES];
  FILE* file = fopen(path, "r");
  if (file == NULL) fail("no such file", path);
  while (fscanf(file, "%255s", word) == 1) {
    if (strcmp(word, "input") == 0) {
      read_input(file, graph, &request);
    } else if (strcmp(word, "output") == 0) {
      read_output(file, graph, &request);
    } else if (strcmp(word, "run") == 0 && fscanf(file, "%255s", word) == 1) {
      answer(session, word, &request);
    } else {
      fail("not a line of requests", word);
    }
  }
  fclose(file);
}

int main(int count, char** arguments) {
  if (count != 3) fail("usage", "c_loader SAVED_MODEL REQUESTS");
  const char* tags[] = {"serve"};
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session = TF_LoadSessionFromSavedModel(
      options, NULL, arguments[1], tags, 1, graph, NULL, status);
  if (TF_GetCode(status) != TF_OK) fail("cannot load", TF_Message(status));
  answer_all(session, graph, arguments[2]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}

// What TensorRT looks for in a plugin library: getCreators and setLoggerFinder.
#include <cstdio>
#include <deque>

#include "plugin.h"

#define HINDSIGHT_EXPORTED extern "C" __attribute__((visibility("default")))

namespace hindsight_trt {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

void log_error(const std::string& message) noexcept {
    nvinfer1::ILogger* logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
    if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
    else std::fprintf(stderr, "hindsight: %s\n", message.c_str());
}

}  // namespace hindsight_trt

HINDSIGHT_EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    hindsight_trt::set_logger_finder(finder);
}

HINDSIGHT_EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    using namespace hindsight_trt;
    static std::deque<Creator> creators;  // a deque: they may not move
    static std::vector<nvinfer1::IPluginCreatorInterface*> pointers = [] {
        std::vector<nvinfer1::IPluginCreatorInterface*> found;
        for (const Species& species : all_species()) found.push_back(&creators.emplace_back(species));
        return found;
    }();
    count = static_cast<int32_t>(pointers.size());
    return pointers.data();
}
